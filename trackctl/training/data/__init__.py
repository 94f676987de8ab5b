"""Training material: readers of the public sets, and the store of decoded frames that pairs are cut from."""
