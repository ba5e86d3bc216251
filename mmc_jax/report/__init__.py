"""Reports: records as text (`tables`), runs, images and features as `figures`."""
