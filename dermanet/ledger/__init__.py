"""The ledger: why things are as they are. One record for every decision, with its reasons."""
