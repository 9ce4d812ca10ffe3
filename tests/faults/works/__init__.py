"""A project whose actors do what their messages say, and write down what they did."""
