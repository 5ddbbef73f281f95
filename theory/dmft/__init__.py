"""Learning and memorising a finite data set, predicted without a simulation: dynamical mean-field theory."""
