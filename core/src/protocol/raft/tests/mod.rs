mod hostile;
mod smoke;
