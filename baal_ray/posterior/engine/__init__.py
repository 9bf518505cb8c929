"""Draw many posterior samples fast: trace the model, cut it, and run the trunk once.

For each new shape of mini-batch, `trunk_once` runs these steps:

    1. tracing     turns the model into a graph of tensor operations
    2. simplify    folds batch norms into convolutions and lays out weights
    3. postpone    moves dropout of whole units behind ReLU and pooling
    4. tracing     cuts the graph into a trunk, which no mask touches, and a tail
    5. thinning    removes dropped units from the tail's weights, if that saves enough
       passes      otherwise limits the memory of a pass, and so how many samples share it
    6. finish      lets trunk and tail reuse memory, and computes large matrix products with the
                   faster of two libraries (simplify, products)

Then it runs the trunk once per mini-batch, and the tail for every posterior sample.
"""
