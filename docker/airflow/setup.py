"""Before Airflow starts: its tables, the catalogue's, people with their roles, pools. May be run again; what there is stays.

One process, as each command of Airflow's own pays for its imports anew.
"""

import os

from airflow.cli.cli_parser import get_parser

DERMATOLOGIST = "Dermatologist"
"""A role beside `Viewer`: answers the questions that a run of `retrain` waits with, and starts nothing."""

QUESTIONS = "DAG:retrain"
"""Whoever answers must be allowed to edit the DAG that asks, says Airflow; so a dermatologist could also pause it."""

TABLES = (("db", "migrate"), ("sync-perm",), ("roles", "create", DERMATOLOGIST))

RIGHTS = (
    ("roles", "add-perms", DERMATOLOGIST, "--action", "can_edit", "--resource", QUESTIONS),
    ("roles", "add-perms", DERMATOLOGIST, "--action", "can_edit", "menu_access", "--resource", "HITL Detail"),
    ("pools", "set", "training", "1", "One training at a time on each machine that is as large as this one"),
)

PEOPLE = {"admin": ("Admin",), "dermatologist": ("Viewer", DERMATOLOGIST)}

GRANTS = (
    "GRANT SELECT, INSERT, DELETE ON predictions TO scorer",
    "GRANT SELECT ON forgotten, dermanet_version TO scorer",
)


def question() -> None:
    """What rights are given on, before Airflow has read the DAG."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        builder.sm.create_resource(QUESTIONS)


def airflow(*words: str) -> None:
    """One of Airflow's own commands."""
    arguments = get_parser().parse_args(list(words))
    arguments.func(arguments)


def people() -> None:
    """Each person with a password from the environment and roles; a password that was changed is set again."""
    for name, roles in PEOPLE.items():
        password = os.environ[f"AIRFLOW_{name.upper()}_PASSWORD"]
        own = ("--username", name, "--password", password)
        about = ("--firstname", name.title(), "--lastname", "DermaNet", "--email", f"{name}@localhost")
        airflow("users", "create", *own, *about, "--role", roles[0])
        airflow("users", "reset-password", *own)
        for role in roles[1:]:
            try:
                airflow("users", "add-role", "--username", name, "--role", role)
            except SystemExit as known:
                print(known)


def catalogue() -> None:
    """The catalogue's tables, and what the scorer may do with them."""
    import sqlalchemy as sa

    from dermanet import settings
    from dermanet.database.engine import open_database

    engine = open_database(settings.read().catalogue)
    with engine.begin() as connection:
        for grant in GRANTS:
            connection.execute(sa.text(grant))


if __name__ == "__main__":
    for words in TABLES:
        airflow(*words)
    question()
    for words in RIGHTS:
        airflow(*words)
    people()
    catalogue()
