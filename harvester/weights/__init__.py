"""Starting weights of both stages: what they are made for, whom they have seen, and those that ship."""
