"""``make demo``: a project whose tasks end in every way, and the pages that show them."""
