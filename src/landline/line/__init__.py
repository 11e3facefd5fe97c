"""The public :class:`landline.Line`, the driver behind it, and the driver's parts."""
