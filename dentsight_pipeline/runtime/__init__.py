"""What keeps runs alive: process guard, run launcher, training backends. No modelling and no data logic here."""
