"""Pictures of samples, training curves and the HTML page of a run."""

from jaxgen.report.curves import curves as curves
from jaxgen.report.curves import read_metrics as read_metrics
from jaxgen.report.page import write_report as write_report
from jaxgen.report.pictures import grid as grid
from jaxgen.report.pictures import picture as picture
from jaxgen.report.pictures import save_picture as save_picture
from jaxgen.report.pictures import scatter as scatter
