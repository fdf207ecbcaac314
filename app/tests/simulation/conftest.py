"""Simulation: pure code in a simulated world. SIMULATION_SEEDS (10000) scales the seeds: 8,000 of CP, 3,000 of AP."""
