#version 450
#include "adamw.contract.glsl"

void step4(uint i);
void step1(uint i);
#define STEP4(i) step4(i)
#define STEP1(i) step1(i)
#define CLEAR4(i) grads4[i] = vec4(0.0)
#define CLEAR1(i) grads[i] = 0.0
#include "include/knobs.glsl"

float decay, rate, factor, root, eps, rest1, beta2, rest2;

// The decay of the parameters comes before the step and does not enter the moments.
vec4 moved(vec4 x, vec4 g, inout vec4 mean, inout vec4 square) {
    g *= factor;
    mean += (g - mean) * rest1;
    square = beta2 * square + rest2 * g * g;
    return x * decay - rate * (mean / (sqrt(square) / root + eps));
}

void step4(uint i) {
    vec4 mean = m4[i], square = v4[i];
    params4[i] = moved(params4[i], grads4[i], mean, square);
    m4[i] = mean;
    v4[i] = square;
    grads4[i] = vec4(0.0);
}

void step1(uint i) {
    vec4 mean = vec4(m[i]), square = vec4(v[i]);
    params[i] = moved(vec4(params[i]), vec4(grads[i]), mean, square).x;
    m[i] = mean.x;
    v[i] = square.x;
    grads[i] = 0.0;
}

void main() {
    Knobs k = read_knobs();
    vec4 s = stats4[0];
    decay = 1.0 - k.lr * k.weight_decay;
    rate = k.lr / k.correction1;
    root = sqrt(k.correction2);
    factor = s.y;
    eps = k.eps;
    rest1 = k.rest1;
    beta2 = k.beta2;
    rest2 = k.rest2;
    walk(s.z != 0.0);
}
