mod regressions;
mod smoke;
