"""The stack of docker-compose.yml, brought up for itself alone, tried out whole (`drills.whole`) and with faults (`drills.faults`)."""
