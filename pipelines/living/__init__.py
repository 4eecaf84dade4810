"""What daily updates are worth: models that age, go on, or start anew, on a simulated service that drifts."""
