"""Matching a text against a grammar, token by token: a vocabulary as the library sees it, and a matcher for each text.

Not for: reading grammars (grammar.py).
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flux_vk.errors import FluxError, GrammarError
from flux_vk.text.grammar import Grammar, library, limits

if TYPE_CHECKING:
    import llguidance

    from flux_vk.text.tokenizer import Tokenizer

REHEARSAL = 8  # tokens that a grammar must be able to write, or end before, when it is given


class GrammarVocabulary:
    """A tokenizer's vocabulary, made ready for grammars once: their matchers are made here. May be shared by threads.

    Tokens that write nothing (control, unknown, unused) are never part of a text; those that end it are allowed where
    the grammar may end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        n = tokenizer.vocab_size
        ends = sorted(tokenizer.eog_ids)
        self.has_end = bool(ends)
        self._pieces = [tokenizer.piece(i) for i in range(n)]
        hidden = {i for i in range(n) if not tokenizer.rendered(i)}.union(ends)
        if not ends:  # the library needs one; its bit lies behind the vocabulary
            self._pieces.append(b"<end>")
            hidden.add(n)
            ends = [n]
        # What __call__ and the library's wrapper need.
        self.tokens = self._pieces
        self.special_token_ids = sorted(hidden)
        self.eos_token_id, self.bos_token_id = ends[0], tokenizer.bos_id
        self._hidden = frozenset(hidden)
        self._by_bytes = {p: i for i, p in enumerate(self._pieces) if p and i not in hidden}
        self._longest = max(map(len, self._by_bytes), default=0)
        ll = library()
        self._native: llguidance.LLTokenizer = ll.LLTokenizer(ll.TokenizerWrapper(self), eos_token=ends)
        self._compiled: weakref.WeakKeyDictionary[Grammar, llguidance.LLMatcher] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> list[int]:
        """The tokens of text that a grammar forces, as this vocabulary's own tokenizer writes them. Where it cannot,
        longest pieces first, as far as there are any."""
        ids = self.tokenizer.encode_inside(data.decode("utf-8", "replace"))
        if self._hidden.isdisjoint(ids) and b"".join(self._pieces[i] for i in ids) == data:
            return ids
        ids, at = [], 0
        while at < len(data):
            lengths = range(min(self._longest, len(data) - at), 0, -1)
            found = next((self._by_bytes[p] for k in lengths if (p := data[at : at + k]) in self._by_bytes), None)
            if found is None:
                break
            ids.append(found)
            at += len(self._pieces[found])
        return ids

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a text. Raises GrammarError where this vocabulary cannot begin one."""
        with self._lock:
            compiled = self._compiled.get(grammar)
            if compiled is None:
                compiled = library().LLMatcher(self._native, grammar.source, log_level=0, limits=limits())
                Matcher(self, grammar, compiled.deep_copy()).rehearse()
                self._compiled[grammar] = compiled
            return Matcher(self, grammar, compiled.deep_copy())


class Matcher:
    """Where one text stands in its grammar. One thread at a time."""

    def __init__(self, vocabulary: GrammarVocabulary, grammar: Grammar, native: llguidance.LLMatcher) -> None:
        self._vocabulary = vocabulary
        self.grammar = grammar
        self._native = native
        self._tokens: list[int] = []
        size = vocabulary.tokenizer.vocab_size
        self._words = np.zeros(-(-len(vocabulary.tokens) // 32), np.uint32)
        self._used = -(-size // 32)
        self._last = np.uint32((1 << (size - 32 * (self._used - 1))) - 1)  # bits of the last word that are tokens

    @property
    def tokens(self) -> list[int]:
        """What was accepted so far."""
        return list(self._tokens)

    def mask(self, into: npt.NDArray[np.uint32] | None = None) -> npt.NDArray[np.uint32]:
        """The tokens that may come next: bit t % 32 of word t // 32, uint32[ceil(vocabulary / 32)].

        into: written and returned; else an array that the next call writes again. Raises GrammarError where there is
        none: a dead end.
        """
        found = self._bits()
        if not found.any():
            raise GrammarError(f"{self.grammar.name}: {self._dead_end()}")
        if into is None:
            return found
        into[...] = found
        return into

    def _bits(self) -> npt.NDArray[np.uint32]:
        self._native.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        found = self._words[: self._used]
        if self._native.is_error():
            found[:] = 0
        found[-1] &= self._last
        return found

    def accept(self, token: int) -> None:
        """Go on with a token of the mask; one that ends the text is accepted where it may end.

        Raises GrammarError for any other.
        """
        if not self._native.consume_token(token):
            said = self.grammar.refusal(self._native.get_error())
            raise GrammarError(f"{said} (behind {self._shown()!r}, at token {token})")
        self._tokens.append(token)

    @property
    def finished(self) -> bool:
        """Whether nothing can follow but the end."""
        if self._native.is_stopped() and not self._native.is_error():
            return True
        return not self._vocabulary.has_end and self._native.is_accepting() and not self._bits().any()

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return self._native.is_accepting()

    def rollback(self, n: int) -> None:
        """Take the last n tokens back."""
        if not 0 <= n <= len(self._tokens):
            raise GrammarError(f"{self.grammar.name}: rollback of {n} tokens; expected 0 to {len(self._tokens)}")
        kept = self._tokens[: len(self._tokens) - n]
        if n and not self._native.rollback(n):
            raise GrammarError(self.grammar.refusal(self._native.get_error()))
        self._tokens = kept

    def rehearse(self) -> None:
        """Write the beginning of a text. Raises GrammarError where that is not possible; the matcher is used up."""
        for i in range(REHEARSAL):
            # Further on, characters that the vocabulary lacks may be those of one way among others.
            mask = self.mask() if i == 0 or self._native.is_error() else self._bits()
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            writing = [t for t in allowed[:64] if t not in self._vocabulary.tokenizer.eog_ids]
            if not writing:
                return
            self.accept(int(writing[0]))
            if self.finished:
                return

    def nothing_to_draw(self, error: FluxError) -> FluxError:
        """What to raise where the sampler found nothing among the tokens that the grammar allows."""
        return FluxError(
            f"{error}. A grammar decides here ({self.grammar.name}): of the tokens that it allows behind "
            f"{self._shown()!r} none has a finite logit; a logit_bias of -inf may leave them out"
        )

    def _shown(self) -> str:
        """The end of the text so far."""
        pieces = self._vocabulary.tokens
        return b"".join(pieces[t] for t in self._tokens[-16:]).decode("utf-8", "replace")[-60:]

    def _dead_end(self) -> str:
        if self._native.is_error() and "NoExtension" not in self._native.get_error():
            said = self.grammar.refusal(self._native.get_error()).removeprefix(f"{self.grammar.name}: ")
            return f"behind {self._shown()!r}: {said}"
        where = f"behind {self._shown()!r}" if self._tokens else "at the beginning"
        return (
            f"no token of {self._vocabulary.tokenizer.name} can follow {where}: the grammar describes no text "
            "that ends, or wants characters that this vocabulary cannot write; change it, or take another model"
        )
