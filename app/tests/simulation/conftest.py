"""Simulation: pure code in a simulated world. SIMULATION_SEEDS scales the number of seeds (10000: 8,000 of CP, 3,000 of AP)."""
