"""Jobs: what a submitter packs and signs, the code archive that sites unpack, and the administrator's side of the wire."""
