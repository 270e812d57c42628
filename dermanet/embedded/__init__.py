"""Everything on one machine: Airflow, MLflow and the scorer as processes bound to loopback, and the main job watched once."""
