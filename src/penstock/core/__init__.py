"""What every room needs: settings, errors, the measurement record, the machine's fingerprint."""
