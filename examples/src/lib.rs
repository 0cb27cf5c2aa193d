//! Examples of Smalti. They are programs in `src/bin`; what is here makes the README's examples compile.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
