mod hostile;
mod readers;
mod regressions;
mod smoke;
