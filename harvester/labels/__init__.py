"""Labels of every origin: the marks of an archive and the ledger of what was found."""
