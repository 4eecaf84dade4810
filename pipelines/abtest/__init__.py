"""An A/B test of two exported models on simulated users who respond by their planted intents."""
