"""What every long job needs: whole files, locks, parallel maps, the database's process, interrupts."""
