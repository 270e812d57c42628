"""Every change of the catalogue's tables, in order. `database` runs what is missing when it opens a catalogue."""
