//! pgweir.
