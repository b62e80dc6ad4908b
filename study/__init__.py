"""Many runs: which train together, which process or machine trains them, how the study stands."""
