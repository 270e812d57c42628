"""Who logs in to Airflow, and how: names and passwords in its own database. For OAuth or LDAP see the FAB provider's documentation."""

from flask_appbuilder.const import AUTH_DB

AUTH_TYPE = AUTH_DB
AUTH_RATE_LIMITED = True
AUTH_RATE_LIMIT = "20 per minute"
