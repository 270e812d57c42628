"""Whether this container's own part of Airflow has shown a sign of life lately.

    python alive.py SchedulerJob | TriggererJob | DagProcessorJob

Asks the database: Airflow's own command for it imports all of Airflow, every time.
"""

import os
import socket
import sys

import psycopg

LATELY = "1 minute"

QUERY = (
    "SELECT count(*) FROM job WHERE job_type = %s AND hostname = %s AND state = 'running' "
    f"AND latest_heartbeat > now() - interval '{LATELY}'"
)

address = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg", "")
with psycopg.connect(address, connect_timeout=5) as connection:
    names = {socket.gethostname(), socket.getfqdn()}
    found = sum(connection.execute(QUERY, (sys.argv[1], name)).fetchone()[0] for name in names)
sys.exit(not found)
