"""What is orchestrated. Each flow is given to Prefect by its module path: `flows.hibernate.hibernate`."""
