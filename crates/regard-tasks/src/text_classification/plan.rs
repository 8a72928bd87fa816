//! Sizes and epochs from the data and the time there is.
