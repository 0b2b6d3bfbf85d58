#!/usr/bin/env bash
# Makes sure that what the build needs from the operating system is there; installs it on Debian and Ubuntu.
# Usage: native/system_packages.sh run|test PYTHON      silent and quick when nothing is missing
set -u
purpose=$1
python=$2

have() { command -v "$1" >/dev/null 2>&1; }
header() { # the compiler itself knows where it looks
    printf '#if !__has_include(<%s>)\n#error\n#endif\n' "$1" |
        c++ -E -x c++ ${VULKAN_SDK:+-I"$VULKAN_SDK/include"} - >/dev/null 2>&1
}
driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] ||
        compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null ||
        compgen -G '/usr/local/share/vulkan/icd.d/*.json' >/dev/null ||
        compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null
}
validation_layer() {
    local folder
    for folder in ${VK_LAYER_PATH:-} ${VK_ADD_LAYER_PATH:-} {/usr/share,/usr/local/share,/etc,~/.local/share}/vulkan/explicit_layer.d; do
        [ -e "$folder/VkLayer_khronos_validation.json" ] && return 0
    done
    return 1
}

missing=()
need() { missing+=("$1"); }
have c++ || need g++
have cmake || need cmake
have glslangValidator || need glslang-tools
{ header vulkan/vulkan.hpp; } || need libvulkan-dev
{ header fmt/core.h; } || need libfmt-dev
driver || need mesa-vulkan-drivers
if [ "$purpose" = test ]; then
    { have spirv-val && have spirv-dis; } || need spirv-tools
    validation_layer || need vulkan-validationlayers
fi
if ! have "$python"; then
    need python3; need python3-venv; need python3-dev
else
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || {
        echo "$python is $("$python" -V 2>&1); flux_vk needs Python 3.10 to 3.13: make PYTHON=python3.12 ..." >&2
        exit 1
    }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || need "$(basename "$python")-venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        need "$(basename "$python")-dev"
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if ! have apt-get; then
    echo "Missing on this machine, by their Debian names: ${missing[*]}" >&2
    echo "Install what your system calls these, then run make again." >&2
    exit 1
fi
update="apt-get update"
install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ]; then
    sudo=()
elif have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    sudo=(sudo)
else
    echo "Missing: ${missing[*]}. Run this line, then make again:" >&2
    echo "    sudo $update && sudo $install" >&2
    exit 1
fi
echo "Installing ${missing[*]}" >&2
# shellcheck disable=SC2086  # the two lines are words on purpose
if ! { "${sudo[@]}" $update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive $install; }; then
    echo "The packages could not be installed. By hand: sudo $update && sudo $install" >&2
    exit 1
fi
