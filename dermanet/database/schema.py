"""The catalogue's tables as the code knows them. How a database gets there, and every change since, is in `migrations`."""

import sqlalchemy as sa

METADATA = sa.MetaData()

IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True, comment="SHA-256 of the stored bytes, hexadecimal"),
    sa.Column("format", sa.String(8), nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("source", sa.Text, nullable=False, comment="where it came from first"),
    sa.Column("brightness", sa.Float, comment="mean luma, 0 to 255; null where never measured, as the next two"),
    sa.Column("contrast", sa.Float, comment="grey levels from the 1st to the 99th percentile"),
    sa.Column("detail", sa.Float, comment="variance of the Laplacian, longer side at 256 pixels"),
    sa.Column(
        "ita",
        sa.Float,
        comment="individual typology angle of the skin in degrees; null where none was seen or measured",
    ),
    sa.Column("phash", sa.String(64), index=True, comment="perceptual hash of 256 bits, hexadecimal"),
)

ORIGINALS = sa.Table(
    "originals",
    METADATA,
    sa.Column("original", sa.String(64), primary_key=True, comment="SHA-256 of a file as it came"),
    sa.Column("digest", sa.ForeignKey("images.digest"), nullable=False, index=True),
    sa.Column("md5", sa.String(32), index=True, comment="of the same bytes, where an S3 server stated it; else null"),
)

LABELS = sa.Table(
    "labels",
    METADATA,
    sa.Column("digest", sa.ForeignKey("images.digest"), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, comment="1, 2, …; the highest counts"),
    sa.Column("image_id", sa.String(128), nullable=False),
    sa.Column("lesion_id", sa.String(128), nullable=False, index=True),
    sa.Column("diagnosis", sa.String(32), nullable=False),
    sa.Column("age", sa.Float, comment="years; null where not recorded"),
    sa.Column("sex", sa.String(8), nullable=False),
    sa.Column("localization", sa.Text, nullable=False),
    sa.Column("confirmation", sa.Text, nullable=False),
    sa.Column("clinic", sa.Text, nullable=False),
    sa.Column("patient_id", sa.String(128), nullable=False, index=True, comment="a pseudonym, or empty"),
    sa.Column(
        "batch", sa.String(16), nullable=False, comment="the taking of a batch that brought this revision, or empty"
    ),
)

REFUSALS = sa.Table(
    "refusals",
    METADATA,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False, index=True),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("id", sa.String(12), nullable=False, index=True),
    sa.Column("record", sa.Text, comment="the row as its source wrote it, JSON; null where there is none"),
    sa.Column("lesion_id", sa.Text, nullable=False, index=True, comment="as the row says it, or empty"),
    sa.Column("file", sa.String(64), comment="SHA-256 of the file that quarantine keeps; null where it keeps none"),
    sa.Column("ruling", sa.String(8), nullable=False, comment="empty while in quarantine, else released or dropped"),
    sa.Column("fingerprint", sa.String(64), nullable=False, comment="of the row and the file that were ruled on"),
    sa.Column(
        "withdrawn", sa.Boolean, nullable=False, server_default=sa.false(), comment="whether its source has it no more"
    ),
)

FORGOTTEN = sa.Table(
    "forgotten",
    METADATA,
    sa.Column(
        "digest", sa.String(64), primary_key=True, comment="of an image, of a file as it came, or of a lesion's id"
    ),
    sa.Column("lesion", sa.String(64), nullable=False, index=True, comment="SHA-256 of the lesion's id"),
    sa.Column("image", sa.Boolean, nullable=False, comment="whether the object store held it under this digest"),
)

SIDES = sa.Table(
    "sides",
    METADATA,
    sa.Column("lesion_id", sa.String(128), primary_key=True),
    sa.Column(
        "side", sa.String(10), nullable=False, comment="train, validation or holdout: for ever, from its first snapshot"
    ),
    sa.Column("because", sa.Text, nullable=False, comment="what decided: the id that was hashed, or a person's word"),
    sa.Column(
        "worn", sa.Integer, nullable=False, server_default="0", comment="verdicts that it took part in, on the holdout"
    ),
)

THUMBNAILS = sa.Table(
    "thumbnails",
    METADATA,
    sa.Column("digest", sa.ForeignKey("images.digest"), primary_key=True),
    sa.Column("grey", sa.LargeBinary, nullable=False, comment="64 x 64 grey levels, row by row"),
)

ALIKE = sa.Table(
    "alike",
    METADATA,
    sa.Column("one", sa.ForeignKey("images.digest"), primary_key=True, comment="the smaller of the two digests"),
    sa.Column("other", sa.ForeignKey("images.digest"), primary_key=True, index=True, comment="a near-duplicate of it"),
    sa.Column("likeness", sa.Float, nullable=False, comment="how much, up to 1"),
)

PARTED = sa.Table(
    "parted",
    METADATA,
    sa.Column("one", sa.String(64), primary_key=True, comment="digest of an image, the smaller of the two"),
    sa.Column("other", sa.String(64), primary_key=True, comment="digest of an image that only looks like it"),
)

BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, comment="1, 2, …, of its finished takings; the highest counts"),
    sa.Column("taking", sa.String(16), nullable=False, index=True, comment="what `labels.batch` says of this taking"),
    sa.Column("digest", sa.String(16), nullable=False, comment="of its label file and its listing"),
    sa.Column("receipt", sa.Text, nullable=False, comment="JSON, as it was written beside the label file"),
)

SNAPSHOTS = sa.Table(
    "snapshots",
    METADATA,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column(
        "number", sa.Integer, nullable=False, unique=True, comment="1, 2, …, in the order of their first freezing"
    ),
    sa.Column("statistics", sa.Text, comment="JSON; null while it has not been validated"),
    sa.Column("verdict", sa.String(16), nullable=False, comment="empty, passed, anomalous, or accepted by a person"),
    sa.Column("because", sa.Text, nullable=False, comment="the anomalies, or why a person accepted them"),
)

DECISIONS = sa.Table(
    "decisions",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, comment="1, 2, …, in the order in which they were taken"),
    sa.Column("at", sa.String(32), nullable=False, comment="when it was taken first, ISO 8601 in UTC"),
    sa.Column("kind", sa.String(16), nullable=False, index=True, comment="see `ledger.decisions.KINDS`"),
    sa.Column("outcome", sa.String(16), nullable=False, comment="one word; `under way` while an alias is being moved"),
    sa.Column(
        "run_id", sa.String(64), nullable=False, index=True, comment="MLflow's, as the next three empty where not known"
    ),
    sa.Column("version", sa.String(16), nullable=False, index=True, comment="of the registered model"),
    sa.Column("snapshot", sa.String(16), nullable=False, index=True),
    sa.Column("holdout", sa.String(16), nullable=False, index=True, comment="digest of the holdout"),
    sa.Column("who", sa.Text, nullable=False, comment="the person, or empty where a rule decided"),
    sa.Column("dag_run", sa.Text, nullable=False, index=True, comment="DAG/run in Airflow, or empty"),
    sa.Column("reasons", sa.JSON, nullable=False, comment="lines for people"),
    sa.Column("before", sa.JSON, nullable=False, comment="alias to version, before aliases were moved"),
    sa.Column("wore", sa.Boolean, nullable=False, comment="whether it counts as a use of the holdout"),
)

PREDICTIONS = sa.Table(
    "predictions",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True, comment="given by who answered, in the order of time"),
    sa.Column("at", sa.DateTime, nullable=False, index=True, comment="when it was answered, UTC"),
    sa.Column("version", sa.String(32), nullable=False, comment="of the registered model"),
    sa.Column("digest", sa.String(64), nullable=False, index=True, comment="SHA-256 of the bytes, empty without any"),
    sa.Column("age", sa.Float, comment="years; null where the image could not be answered, as the next three"),
    sa.Column("sex", sa.String(16)),
    sa.Column("diagnosis", sa.String(32)),
    sa.Column("probabilities", sa.JSON(none_as_null=True), comment="of `sex` by name, of `diagnosis` by code"),
    sa.Column("quality", sa.Text, comment="`good`, or what is wrong with the photograph; null where not measured"),
    sa.Column(
        "novelty", sa.Float, comment="how unlike the training side it is, 1 is the limit; null where not measured"
    ),
    sa.Column("refer", sa.Text, comment="why a person should decide, or null"),
    sa.Column("error", sa.Text, comment="which kind of error, or null"),
    sa.Column("milliseconds", sa.Float, nullable=False, comment="what the answer took"),
    sa.Column(
        "brightness", sa.Float, comment="mean luma of the photograph, 0 to 255; null where not measured, as below"
    ),
    sa.Column("contrast", sa.Float, comment="grey levels from the 1st to the 99th percentile"),
    sa.Column("detail", sa.Float, comment="variance of the Laplacian, longer side at 256 pixels"),
    sa.Column(
        "sketch", sa.JSON(none_as_null=True), comment="eight figures of colour and texture, as the version weighs them"
    ),
)

WINDOWS = sa.Table(
    "windows",
    METADATA,
    sa.Column("start", sa.DateTime, primary_key=True, comment="UTC"),
    sa.Column("days", sa.Integer, primary_key=True, comment="how long it is"),
    sa.Column("version", sa.String(32), primary_key=True, comment="which answered in it; empty where none did"),
    sa.Column("verdict", sa.String(16), nullable=False, comment="see `monitoring.drift.Word`"),
    sa.Column("images", sa.Integer, nullable=False, comment="different ones that it answered"),
    sa.Column("record", sa.JSON, nullable=False, comment="what was seen, and every check"),
    sa.Column("at", sa.String(32), nullable=False, comment="when it was judged, ISO 8601 in UTC"),
    sa.Column("dag_run", sa.Text, nullable=False, index=True, comment="DAG/run in Airflow, or empty"),
    sa.Column(
        "report", sa.String(64), nullable=False, comment="MLflow's run with the report; empty before there is one"
    ),
)
