"""Simulation: pure code in a simulated world. SIMULATION_SEEDS sets the number of seeds (10,000)."""
