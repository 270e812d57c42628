"""Makes MLflow's users: Airflow's (who registers), the scorer's and people's (who read). A password that was changed is set again.

The registered model is made too, as Airflow's: of one that there is not, MLflow says to the scorer that it may not look.
"""

import os

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

USERS = ("airflow", "scorer", "reader")


def user(name: str) -> None:
    """One of them, with the password of the environment."""
    client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    password = os.environ[f"MLFLOW_{name.upper()}_PASSWORD"]
    try:
        client.get_user(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_user(name, password)
        print(f"user {name} made")
    else:
        client.update_user_password(name, password)


def model(name: str) -> None:
    """The registered model, by whoever is logged in."""
    try:
        MlflowClient().create_registered_model(name)
        print(f"model {name} made")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


if __name__ == "__main__":
    for one in USERS:
        user(one)
    os.environ["MLFLOW_TRACKING_USERNAME"] = "airflow"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = os.environ["MLFLOW_AIRFLOW_PASSWORD"]
    model(os.environ.get("DERMANET_MODEL") or "dermanet")
