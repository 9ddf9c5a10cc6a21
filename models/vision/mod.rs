//! Vision encoders.
