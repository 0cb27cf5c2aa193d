mod hostile;
mod regressions;
mod smoke;
