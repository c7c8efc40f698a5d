"""Commands whose input is run directories, or results that become run directories."""
