"""Everything that touches Redis: keys, client, one Lua script a transition."""
