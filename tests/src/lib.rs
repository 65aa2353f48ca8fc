//! Black-box tests of the whole live beside this file, one binary for all of them.
