"""Show queries with their answers, right and wrong, as a page and a figure (Fig. 11)."""
