"""Makes the buckets that there are not yet: the catalogue's images, the inbox for new batches, and MLflow's artifacts."""

import boto3

BUCKETS = ("images", "inbox", "mlflow")

client = boto3.client("s3")
there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
for name in BUCKETS:
    if name not in there:
        client.create_bucket(Bucket=name)
        print(f"bucket {name} made")
