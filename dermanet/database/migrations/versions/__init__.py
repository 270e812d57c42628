"""One file a migration. They are never edited once they have run anywhere: a change is a new file, and `database.HEAD` names it."""
