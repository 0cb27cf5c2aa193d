//! Fuzz targets for Smalti; their bodies also run as plain tests.
