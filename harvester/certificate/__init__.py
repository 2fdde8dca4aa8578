"""Whether a harvest's precision is proven, and at which threshold."""
