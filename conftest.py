pytest_plugins = ["tests.nbval_numbers"]  # for the tests and the notebooks alike
