// Finding a token in a list in the order (key descending, id ascending). The includer gives list_key(i), list_id(i).

// The first place in [first, end) that is not before (key, id).
uint place_of(uint key, uint id, uint first, uint end) {
    uint lo = first, hi = end;
    while (lo < hi) {
        uint mid = lo + (hi - lo) / 2u;
        uint k = list_key(mid);
        bool before = k > key || (k == key && list_id(mid) < id);
        lo = before ? mid + 1u : lo;
        hi = before ? hi : mid;
    }
    return lo;
}
