// Which entries of its slot's page table a row sees, and in how many chunks of CHUNK entries they are taken. The first
// chunk begins at the first visible page, so a sliding window has no chunks in front of it. Wants PS and CHUNK.

struct Span {
    uint oldest;  // position of the first visible key
    uint first;   // entry of its page
    uint end;     // entry behind the last page
};

// info: (sink pages, dropped pages) of the slot; window 0 = all; max_pages: entries of a slot's table.
Span visible_span(uint position, uvec2 info, uint window, uint max_pages) {
    Span s;
    s.oldest = window == 0u || position < window ? 0u : position - window + 1u;
    uint newest_page = position / PS, oldest_page = s.oldest / PS;
    uint last = newest_page - (newest_page >= info.x ? info.y : 0u);
    s.first = oldest_page;
    if (oldest_page >= info.x) s.first = oldest_page >= info.x + info.y ? oldest_page - info.y : info.x;
    s.end = min(last + 1u, max_pages);
    return s;
}

// At least one, so that a row that sees nothing is written too.
uint span_chunks(Span s) { return s.end <= s.first ? 1u : (s.end - s.first + CHUNK - 1u) / CHUNK; }
