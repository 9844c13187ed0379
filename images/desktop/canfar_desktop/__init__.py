"""What a desktop session has beside Xvnc and Xfce: its page, and its software menu."""
