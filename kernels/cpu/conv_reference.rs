//! f64 twins of the convolution kernels, and the tests that compare the two on odd shapes, at every instruction set.
