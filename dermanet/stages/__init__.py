"""The stages: one function a task, ids and small JSON in and out. Airflow, the command line and the tests call the same ones.

    ingest -> snapshot -> validate -> prepare -> extract -> train -> evaluate -> judge -> register -> smoke_test -> promote

Every stage may be killed and run again, and run twice: outputs are named by content or found by what they work on.
Heavy libraries are imported inside the functions: Airflow imports this package each time it parses a DAG file.
"""

from dermanet.stages.answers import predict, predict_each, predict_into
from dermanet.stages.backups import backup, restore, verify_backup
from dermanet.stages.cache import cache, check_cache, prune_cache
from dermanet.stages.champions import champion, export, keep_champion, register
from dermanet.stages.data import (
    check_sources,
    counted,
    ingest,
    ingest_configured,
    preparation_parts,
    prepare,
    prepare_part,
    snapshot,
)
from dermanet.stages.decisions import APPROVE, REJECT, answered, decide, way_of, why
from dermanet.stages.dossier import compile_dossier
from dermanet.stages.extraction import extract, extract_part, feature_parts
from dermanet.stages.forgetting import forget
from dermanet.stages.groups import group_sheet, groups, part_images, settle_group
from dermanet.stages.holdout import holdout, renew_holdout
from dermanet.stages.inbox import require_whole
from dermanet.stages.monitoring import monitor, monitoring_summary, window_lines
from dermanet.stages.notices import failed, late, notify
from dermanet.stages.objects import check_objects, objects, prune_objects
from dermanet.stages.pages import evaluation_page
from dermanet.stages.parts import named_part
from dermanet.stages.promotion import promote, promote_judged, require_comparable, roll_back
from dermanet.stages.quarantine import (
    drop_quarantined,
    drop_withdrawn,
    quarantined,
    release_quarantined,
    show_quarantined,
)
from dermanet.stages.replay import replay
from dermanet.stages.search import search, searches, trials
from dermanet.stages.smoke import smoke_test
from dermanet.stages.state import (
    catalogued,
    example,
    experiment_summary,
    gates_summary,
    holds_real_images,
    training_now,
)
from dermanet.stages.training import train
from dermanet.stages.upkeep import list_unneeded, remove_listed, upkeep
from dermanet.stages.validation import limits_summary, report_file, validate
from dermanet.stages.verdicts import evaluate, judge, read_first
from dermanet.stages.watchreport import monitoring_report
from dermanet.stages.whole import retrain

__all__ = [
    "APPROVE", "REJECT", "answered", "backup", "cache", "catalogued", "champion", "check_cache", "check_objects",
    "check_sources", "compile_dossier", "counted", "decide", "drop_quarantined", "drop_withdrawn", "evaluate",
    "evaluation_page", "example", "experiment_summary", "export", "extract", "extract_part", "failed", "feature_parts",
    "forget", "gates_summary", "group_sheet", "groups", "holdout", "holds_real_images", "ingest", "ingest_configured", "judge",
    "keep_champion", "late", "limits_summary", "list_unneeded", "monitor", "monitoring_report", "monitoring_summary",
    "named_part", "notify", "objects", "part_images", "predict", "predict_each", "predict_into", "preparation_parts",
    "prepare", "prepare_part", "promote", "promote_judged", "prune_cache", "prune_objects", "quarantined", "read_first",
    "register", "release_quarantined", "remove_listed", "renew_holdout", "replay", "report_file", "require_comparable",
    "require_whole", "restore", "retrain", "roll_back", "search", "searches", "settle_group", "show_quarantined", "smoke_test",
    "snapshot", "train", "training_now", "trials", "upkeep", "validate", "verify_backup", "way_of", "why", "window_lines",
]  # fmt: skip
