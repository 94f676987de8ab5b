"""Jetson boards: profiles, power and temperature, doctor."""
